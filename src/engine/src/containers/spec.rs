//! The OCI configuration of a container: pure.
