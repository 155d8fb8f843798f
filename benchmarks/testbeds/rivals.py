RIVALS = ()
class RivalEngine: pass
