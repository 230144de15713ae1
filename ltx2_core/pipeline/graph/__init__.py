"""What node graphs pass from stage to stage, and the stages that begin with it."""
