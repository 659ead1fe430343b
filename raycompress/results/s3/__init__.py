"""Results on S3: the folder of an experiment under a prefix, and what takes the place of a disk's promises."""
