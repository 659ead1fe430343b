"""Ray clusters: their files, what is checked before a dollar is spent, and the life of a run on one."""
