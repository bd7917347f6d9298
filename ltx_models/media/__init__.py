"""Pictures and clips that a person gives, as conditioning wants them. Needs no MLX.

For clients too, in plain Python: `headers` says whether a picture is too large, `lengths` how long a clip is, `spans`
which part of it is read. What a file is, `ltx_models.files.formats` says.

`display` decides how colours, transparency and interlaced frames are shown, with the tables of `colours`. `pictures`
and `clips` read files into frames of at most twice the video's size (`fit`), `png` leaves out what a PNG need not have,
`streams` asks ffmpeg what a clip is, `prepare` makes of the frames what the model expects. `ffmpeg` runs ffmpeg.
"""
