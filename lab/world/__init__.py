"""The embedded world: photos, objects and words composed into scenes whose truth is exact."""
