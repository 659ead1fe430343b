"""AWS: what is checked before a dollar is spent, what a cluster costs, and who may do what."""
