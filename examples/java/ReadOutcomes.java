// Prints outcomes: java -cp CLASS_PATH ReadOutcomes.java [SLOT_ID]; with a slot, until its outcome
// has come.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

public class ReadOutcomes {
    public static void main(String[] args) throws Exception {
        var env = System.getenv();
        Long wanted = args.length > 0 ? Long.valueOf(args[0]) : null;
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", env.getOrDefault("KAFKA", "localhost:9092"),
                "group.id", env.getOrDefault("GROUP", "playout"),
                // Without this, outcomes would be seen that a worker has written and taken back.
                "isolation.level", "read_committed",
                "auto.offset.reset", "earliest",
                "enable.auto.commit", false);
        var json = new ObjectMapper();
        try (var consumer =
                new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(env.getOrDefault("RESULTS", "slot.results")));
            boolean found = false;
            while (!found) {
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    var outcome = json.readTree(record.value());
                    System.out.println(describe(outcome));
                    found |= wanted != null && outcome.get("slot_id").longValue() == wanted;
                }
                consumer.commitSync(); // only now, so that none is lost when this process dies
            }
        }
    }

    private static String describe(JsonNode outcome) {
        long slotId = outcome.get("slot_id").longValue();
        if (outcome.get("type").textValue().equals("slot-complete")) {
            var video = outcome.get("artifact");
            return "slot %d complete: %s (%s s)"
                    .formatted(slotId, video.get("uri").textValue(), video.get("duration_s"));
        }
        return "slot %d missed: %s, %s".formatted(
                slotId, outcome.get("reason").textValue(), outcome.get("detail").textValue());
    }
}
