__version__ = "0.1.0"

from fesgan.comments import comment_package

comment_package() # help() shows the comments of parameters
