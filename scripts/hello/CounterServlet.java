// SPDX-License-Identifier: Apache-2.0 OR MIT
import jakarta.servlet.annotation.WebServlet;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.concurrent.atomic.AtomicInteger;

/** Answers how often it was asked before. The count is only in memory. */
@WebServlet("/")
public class CounterServlet extends HttpServlet {
    private final AtomicInteger counter = new AtomicInteger();

    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
        response.setContentType("text/plain");
        response.getWriter().println("counter: " + counter.getAndIncrement());
    }
}
