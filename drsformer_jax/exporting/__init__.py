"""The network as one file that other programs run: StableHLO and ONNX, with its weights inside."""
