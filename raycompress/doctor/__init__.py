"""What works on this machine and with a cluster file, looked at before it is needed."""
