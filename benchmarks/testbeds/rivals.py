RIVALS = ()


class RivalEngine:
    pass
