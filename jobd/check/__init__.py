"""``jobd check``: what a jobd with these settings would find on this machine. Nothing is started, made or changed."""
