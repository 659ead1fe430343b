"""Ray itself: started on this machine, or connected to on a cluster."""
