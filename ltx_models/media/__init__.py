"""Read pictures and clips that people give, as conditioning needs them. Needs no MLX.

For clients too, in plain Python: `headers` says whether a picture is too large, `lengths` how long a clip is, `spans`
which part of it is read. `ltx_models.files.formats` identifies files.

`display` decides how colours, transparency and interlaced frames are shown, with the tables of `colours`. `pictures`
and `clips` read files into frames of at most twice the video's size (`fit`), `png` leaves out what a PNG need not have,
`streams` asks ffmpeg what a clip is. `ffmpeg` runs ffmpeg.
"""
