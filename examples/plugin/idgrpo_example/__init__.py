"""One part of each kind that idgrpo takes from other packages; nothing in idgrpo names them."""
