"""From a checkpoint to ONNX graphs, checked against PyTorch."""
