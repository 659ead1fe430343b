"""The libraries that rank what to prune."""
