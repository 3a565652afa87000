"""Films restored frame by frame; timestamps, sound, subtitles, chapters and colours are kept.

source.py     a film's frames, and what they have in common
pixels.py     frames to RGB and back, by the film's own matrix and range
encoding.py   how the restored frames are encoded, and what container takes them
parts.py      the folder of what is done, from which a killed run goes on
joining.py    parts, sound and the rest in one file
restoring.py  all of it, in order
"""
