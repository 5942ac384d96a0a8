"""``jobd backup`` and ``jobd restore``: a copy of a state directory, taken while jobd runs, and the way back.

What comes back is a past that is over: a job that had not ended when the copy was taken is ``lost`` afterwards, and is
never started a second time.
"""
