import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.apache.avro.Schema;
import org.apache.avro.SchemaCompatibility;

/**
 * Asks Apache Avro. A line of the input is a writer's schema, a tab and a
 * reader's; its answer is one line: "refused" and why where either is no schema,
 * "failed" where the check throws, or else "checked" and, each after a tab, the
 * incompatibilities as type, location and message.
 */
public class Oracle {
  public static void main(String[] args) throws Exception {
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream out = new PrintStream(System.out, false, "UTF-8");
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      out.println(answer(line.split("\t")));
      out.flush();
    }
  }

  private static String answer(String[] texts) {
    Schema writer;
    Schema reader;
    try {
      writer = new Schema.Parser().parse(texts[0]);
      reader = new Schema.Parser().parse(texts[1]);
    } catch (RuntimeException e) {
      return "refused\t" + oneLine(e);
    }
    StringBuilder answer = new StringBuilder("checked");
    try {
      SchemaCompatibility.checkReaderWriterCompatibility(reader, writer).getResult().getIncompatibilities()
          .forEach(i -> answer.append('\t').append(i.getType()).append(' ').append(i.getLocation())
              .append(' ').append(i.getMessage()));
    } catch (RuntimeException e) {
      return "failed\t" + oneLine(e);
    }
    return answer.toString();
  }

  private static String oneLine(Exception e) {
    return String.valueOf(e).replaceAll("\\s+", " ");
  }
}
