//! The client against a strict registry in this process, and against Debian's docker-registry.

mod auth;
mod fake;
mod pull;
mod push;
mod real;
