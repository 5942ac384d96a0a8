"""What jobd is measured against: programs that are not ours, or as small as such a thing can be."""
