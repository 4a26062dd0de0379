-- What products/planes.yaml asks for, as Postgres says it: one JSON document a plane.
WITH flown AS (
  SELECT *, row_number() OVER (PARTITION BY tailnum ORDER BY time_hour DESC, id) AS place, count(*) OVER (PARTITION BY tailnum) AS flights
  FROM operations.public.flights
), latest AS (
  SELECT f.tailnum, max(f.flights) AS flights, jsonb_agg(jsonb_build_object(
      'id', f.id, 'time_hour', to_char(f.time_hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'airline', a.name,
      'origin', f.origin, 'destination', d.name, 'delay', f.dep_delay) ORDER BY f.place) AS latest
  FROM flown f
  LEFT JOIN reference.public.airlines a ON a.carrier = f.carrier
  LEFT JOIN reference.public.airports d ON d.faa = f.dest
  WHERE f.place <= 5
  GROUP BY f.tailnum
)
SELECT p.tailnum, p.manufacturer, p.model, p.year AS built, p.seats, coalesce(l.flights, 0) AS flights, coalesce(l.latest, '[]') AS latest
FROM operations.public.planes p LEFT JOIN latest l USING (tailnum)
