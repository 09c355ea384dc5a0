//! Triggers of base images.
