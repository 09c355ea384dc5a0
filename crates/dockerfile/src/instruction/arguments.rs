//! Turning an instruction's words into its struct.
