from django.db import models
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import RedisMessage


class Headline(models.Model):
    text = models.CharField(max_length=200)

    def save(self, *args, **kwargs):
        super().save(*args, **kwargs)
        RedisPublisher(facility="wire", broadcast=True).publish_message(RedisMessage(self.text))
