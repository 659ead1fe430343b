"""Who runs trials: Ray Tune, this process, or a fake; `raycompress.backend.protocol` is the seam."""
