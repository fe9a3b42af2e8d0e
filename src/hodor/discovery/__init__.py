"""Objects that are found instead of given: from a finder's maps to clusters, over clips to tracks, and to label maps."""
