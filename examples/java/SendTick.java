// Sends a slot tick: java -cp CLASS_PATH SendTick.java SLOT_ID [SCRIPT]

import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

public class SendTick {
    public static void main(String[] args) throws Exception {
        var kafka = System.getenv().getOrDefault("KAFKA", "localhost:9092");
        var topic = System.getenv().getOrDefault("TICKS", "slot.ticks");
        long slotId = Long.parseLong(args[0]);
        var script = args.length > 1 ? args[1] : "Good evening. Here is the news.";

        // acks=all and idempotence are the client's defaults: a retry sends no second tick.
        Map<String, Object> settings = Map.of("bootstrap.servers", kafka);
        try (var producer =
                new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            // Keyed by slot, so that all ticks of a slot share a partition.
            var record = new ProducerRecord<>(topic, Long.toString(slotId), tick(slotId, script));
            RecordMetadata at = producer.send(record).get();
            System.out.printf("sent slot %d to %s/%d@%d%n",
                    slotId, at.topic(), at.partition(), at.offset());
        }
    }

    private static String tick(long slotId, String script) throws Exception {
        var now = Instant.now();
        var tick = new LinkedHashMap<String, Object>();
        tick.put("slot_id", slotId);
        tick.put("emitted_at", now.toString());
        tick.put("deadline", now.plusSeconds(45).toString());
        tick.put("recipe", Map.of(
                "slot_params", Map.of("duration_sec", 6, "fps", 12, "resolution", "128x128"),
                "audio_track", Map.of("script", script),
                "visual_track", Map.of("prompt", "A news presenter in a blue coat")));
        return new ObjectMapper().writeValueAsString(tick);
    }
}
