"""Pictures and clips that a person gives, as conditioning wants them. Needs no MLX.

`headers` says whether a picture is too large, in plain Python, for clients too. `pictures` and `clips` read files into
frames of at most twice the video's size, `prepare` makes of those what the model expects. `ffmpeg` runs ffmpeg.
"""
