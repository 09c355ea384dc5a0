//! Caches at real services, and at services whose requests fail one after the other.

mod faults;
mod merge;
mod place;
mod services;
mod signed;
