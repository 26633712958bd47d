"""Four threads that count into files, and memory that must not change."""
import os
import random
import threading
import time

random.seed(1)
table = {n: random.random() for n in range(50000)}
total = sum(table.values())
lock = threading.Lock()


def write(name, text):
    with open(name + ".new", "w") as f:
        f.write(text)
    os.rename(name + ".new", name)


def count(number):
    n = 0
    while True:
        n += 1
        with lock:
            write(f"count.{number}", str(n))
        time.sleep(0.01)


for i in range(1, 4):
    threading.Thread(target=count, args=(i,), daemon=True).start()
n = 0
while True:
    n += 1
    write("count.0", str(n))
    write("memory" if sum(table.values()) == total else "broken", "intact")
    time.sleep(0.02)
