"""Networks in TensorFlow Lite files, read as data and written as ONNX."""

from generators.tflite.onnx_writer import onnx_model
from generators.tflite.reader import Network, read_network

__all__ = ["Network", "onnx_model", "read_network"]
