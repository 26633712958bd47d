//! State of tasks and threads other than memory and files.
