import java.nio.file.*;
import java.util.*;

/** Two threads that count into files, and a map that must not change. */
public class Count {
    static void write(String name, String text) throws Exception {
        Path part = Path.of(name + ".new");
        Files.writeString(part, text);
        Files.move(part, Path.of(name), StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    }

    static void count(int number) {
        try {
            for (long n = 1;; n++) {
                write("count." + number, Long.toString(n));
                Thread.sleep(10);
            }
        } catch (Exception e) {
            e.printStackTrace();
            System.exit(1);
        }
    }

    public static void main(String[] args) throws Exception {
        Map<Integer, String> map = new HashMap<>();
        for (int i = 0; i < 20000; i++) map.put(i, "value " + i * 7);
        Thread other = new Thread(() -> count(1));
        other.setDaemon(true);
        other.start();
        new Thread(() -> count(0)).start();
        for (;;) {
            boolean intact = true;
            for (int i = 0; i < 20000; i++) intact &= map.get(i).equals("value " + i * 7);
            byte[] garbage = new byte[1 << 20];
            garbage[5] = 1;
            write("map", intact ? "intact" : "broken");
            Thread.sleep(20);
        }
    }
}
