"""Several processes that serve on one port, and the one that keeps them.

supervisor.py       holds the port, announces, passes signals on, gives up; serves nothing itself
  keeper.py         one worker's place: starts it, and another when it ends (restarts.py says when)
    worker.py       the process that serves; told what to do over a socket (channel.py)
  scrape.py         one metrics page for all, summed by pages.py
"""
