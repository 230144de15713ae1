"""How is one expensive operation computed on this machine?"""
