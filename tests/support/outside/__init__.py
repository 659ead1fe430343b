"""What tests meet outside of this process: stand-ins of AWS and S3, a browser, hosts in namespaces, a small disk."""
