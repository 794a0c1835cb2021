//! What the three binaries share: configuration files, logging, signals, tasks, error chains.
