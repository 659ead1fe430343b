"""What the user wrote: the experiment file, read and checked."""
