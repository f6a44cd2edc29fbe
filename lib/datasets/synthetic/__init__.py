"""The renderer: endless labelled video, made from a seed."""
