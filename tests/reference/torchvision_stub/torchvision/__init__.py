"""In the place of torchvision, whose wheels on PyPI do not load beside a CPU build of PyTorch.

spandrel imports these names for two architectures that no test here runs.
"""
