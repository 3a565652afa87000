InterpolationMode = normalize = rotate = None
