"""What is sent to a cluster: the working directory, raycompress, the cluster file."""
