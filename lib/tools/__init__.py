"""Commands around training and testing, one module each."""
