"""Tasks of Hugging Face directories, as transformers' pipelines do them. Pure: no network, no file."""
