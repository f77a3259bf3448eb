//! What people are shown: the status page and the command line.
