"""Results on S3: an experiment's folder under a prefix, with conditional writes in place of locks and renames."""
