"""What may go wrong on the wire, all of it: a cut after every octet, silence and odd words in place of every reply."""
