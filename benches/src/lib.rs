//! The benches live in `benches/`, the peers in `peers/`; `README.md` says how to run them.
