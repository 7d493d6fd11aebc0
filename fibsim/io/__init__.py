from fibsim.io._interim import *  # replaced by the io developer's own module
