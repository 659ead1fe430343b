"""What pruning loses is won back without training: layers that read removed channels are refitted by least squares."""
