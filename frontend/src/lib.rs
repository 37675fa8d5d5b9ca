//! Reads model.toml and Hugging Face checkpoints into a jetc graph.
